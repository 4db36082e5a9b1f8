"""Files to documents, documents to chunks, chunks to what a collection lacks: one file for each stage."""
