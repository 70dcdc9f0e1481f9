"""Golden vectors: stored states and usage records that every version must give, byte for byte."""
