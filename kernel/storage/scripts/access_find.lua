-- What decides whether a key opens anything, and what. ARGV: key id.
local key = redis.call('HMGET', K.key(ARGV[1]), 'workspace', 'hash', 'record', 'used')
local ws = key[1]
if not ws then return false end
local workspace = redis.call('HMGET', K.workspace(ws), 'plan', 'status', 'limits')
local role = redis.call('HGET', K.members(ws), cjson.decode(key[3]).user_id)
return {key[2], key[3], key[4], workspace[1], workspace[2], workspace[3], role}
