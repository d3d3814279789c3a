"""The contract between Russet's services: .proto files and the code generated from them."""
