"""Bundles on disk: manifest, file hashes, archives and signatures."""
