"""The witness log: one entry a request, hash-chained, verifiable, queried, and archived when it is old.

log        queue -> batches -> chain -> store            embedding  questions without a vector get one later
files      sealed head, checkpoint, signed heads         archive    entries past retention; retention moves them
reading    queries by time, similarity, latency          figures    medians, percentiles and aggregates (pure)
verification  walks archive and store, and names the first entry that does not fit
"""
