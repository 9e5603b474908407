"""What is probably wrong in the content of a slide that is whole: a layer of its own."""
