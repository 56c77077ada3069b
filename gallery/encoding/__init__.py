"""What the model makes of pictures and sentences, and the checkpoint behind it."""
