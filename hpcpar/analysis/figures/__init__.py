"""Figures of what was collected. gallery.py lists them; each is readable in grey, on paper, and by the colour-blind."""
