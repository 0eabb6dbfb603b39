-- What decides whether a key opens anything. ARGV: key id.
local key = redis.call('HMGET', K.key(ARGV[1]), 'workspace', 'hash', 'record', 'used')
if not key[1] then return false end
local workspace = redis.call('HMGET', K.workspace(key[1]), 'plan', 'status')
return {key[2], key[3], key[4], workspace[1], workspace[2]}
