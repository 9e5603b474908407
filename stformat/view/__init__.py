"""What people look at: figures of a slide, the progress of a conversion."""
