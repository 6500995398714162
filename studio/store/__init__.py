"""What must not be lost: blobs by their hash, manifests, the journal, job documents. Plain files, fsync'd.

workspace   the folders, the settings, the lock that makes one engine the owner
files       durable writes: atomic replacement, exclusive creation
blobs       every file by its SHA-256, read-only
manifests   what a version is, and each of its variants; written once
journal     the hash-chained record of everything that changes
jobs        the job documents, newest thousand
store       all of them together, reconciled when opened
"""
