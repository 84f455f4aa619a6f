"""Three phases as three values, one loop."""
