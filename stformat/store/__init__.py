"""A slide's store on disk: layout, writer, reader, tile engine, commit protocol, verification."""
