"""From predictions to figures: cases first, every figure computed from them."""
