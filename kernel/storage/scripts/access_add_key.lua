-- A new key of a workspace. ARGV: workspace, key id, hash, record.
redis.call('HSET', K.key(ARGV[2]), 'workspace', ARGV[1], 'hash', ARGV[3], 'record', ARGV[4], 'used', 0)
redis.call('ZADD', K.workspace_keys(ARGV[1]), 0, ARGV[2])
