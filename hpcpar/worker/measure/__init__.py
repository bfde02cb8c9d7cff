"""The only owner of clocks, warm-up, windows and synchronisation, so that all strategies are timed alike."""
