"""Many slides: their catalogue, what they share, and how they are split for training."""
