-- What decides whether a key opens anything, and what. ARGV: key id. The last of the answer are the roles of the key's
-- user and of its makers.
local key = redis.call('HMGET', K.key(ARGV[1]), 'workspace', 'hash', 'record', 'used')
local ws = key[1]
if not ws then return false end
local workspace = redis.call('HMGET', K.workspace(ws), 'plan', 'status', 'limits')
local record = cjson.decode(key[3])
local roles = redis.call('HMGET', K.members(ws), record.user_id, unpack(record.makers or {}))
return {key[2], key[3], key[4], workspace[1], workspace[2], workspace[3], roles}
