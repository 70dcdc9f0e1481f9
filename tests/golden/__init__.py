"""Golden vectors: the stored states and usage records that every version must write, byte for byte."""
