-- The profile store. Times are seconds per launch, sizes bytes, instants UTC nanoseconds since 1970.
-- A row of `measurement` is never updated: what a later rule thinks of it is another row of another table.

CREATE TABLE store_meta (schema_version INTEGER NOT NULL);
INSERT INTO store_meta VALUES (1);

CREATE TABLE origin (
    id INTEGER PRIMARY KEY,
    source VARCHAR NOT NULL,    -- agent, silicon, vidur, llmservingsim, …
    package VARCHAR NOT NULL,   -- who distributes it
    version VARCHAR NOT NULL,
    file VARCHAR NOT NULL,      -- inside the package or folder
    licence VARCHAR NOT NULL,   -- SPDX
    UNIQUE (source, package, version, file, licence)
);

CREATE TABLE measurement (
    content_hash UHUGEINT PRIMARY KEY,  -- MD5 of all that follows
    origin_id INTEGER NOT NULL,
    kernel VARCHAR NOT NULL,            -- vocabulary of kernels: compiler/kernels.py
    dtype VARCHAR NOT NULL,
    kv_dtype VARCHAR NOT NULL,          -- empty where no cache is read or written
    sku VARCHAR NOT NULL,
    outcome VARCHAR NOT NULL,           -- measured or out_of_memory
    method VARCHAR NOT NULL,            -- cuda-graph, eager, cpu, …
    variant VARCHAR NOT NULL,           -- which kernel of several: a routing, an algorithm
    flags VARCHAR NOT NULL,             -- what was amiss, comma-separated: throttled, unstable, …
    node VARCHAR NOT NULL,              -- fingerprint as JSON, empty where not known
    conditions VARCHAR NOT NULL,        -- clocks, stop reason, … as JSON
    -- dimensions; NULL where the kernel has no such one
    "rows" BIGINT, in_features BIGINT, out_features BIGINT,
    width BIGINT, per_row BIGINT, residual BIGINT,
    heads BIGINT, kv_heads BIGINT, head_dim BIGINT, rotary_dim BIGINT, "window" BIGINT,
    "rank" BIGINT, rope_dim BIGINT, nope_dim BIGINT, value_dim BIGINT,
    vocab BIGINT, hidden BIGINT, intermediate BIGINT,
    experts BIGINT, total_experts BIGINT, top_k BIGINT,
    batch BIGINT, context BIGINT, chunk BIGINT,
    degree BIGINT, payload_bytes BIGINT,
    -- sufficient statistics of the samples
    num_samples BIGINT,
    mean_s DOUBLE CHECK (mean_s > 0 AND isfinite(mean_s)),
    std_s DOUBLE, min_s DOUBLE, median_s DOUBLE, p90_s DOUBLE,
    measured_at_ns BIGINT,
    quarantine VARCHAR                  -- why no estimator may read it; NULL: sound
    CHECK ((outcome = 'measured') = (mean_s IS NOT NULL))
);

-- What estimators read.
CREATE VIEW usable AS
    SELECT m.*, o.source FROM measurement m JOIN origin o ON o.id = m.origin_id
    WHERE quarantine IS NULL AND outcome = 'measured' AND NOT contains(flags, 'throttled');

-- Results that can be computed again: fitted models and runtime tables, as .npz without pickle.
CREATE TABLE artefact (
    key VARCHAR PRIMARY KEY,            -- SHA-256 of the data, the code version and the query; # and the part
    kind VARCHAR NOT NULL,              -- model or tables
    body BLOB USING COMPRESSION uncompressed NOT NULL  -- near random: trying costs more than it saves
);
