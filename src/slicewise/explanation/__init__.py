"""What the classification head looked at."""
