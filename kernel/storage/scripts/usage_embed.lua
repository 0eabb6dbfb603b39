#!lua flags=allow-oom
-- Counts what was embedded to answer a caller. ARGV: ws, now, key, what was embedded as JSON
count_embedded(ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4])
