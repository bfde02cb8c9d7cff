"""The machine itself: asked once, described as a profile, compared with one, probed with the smallest job."""
