"""Tables and sentences as people read them."""
