-- A new credential under a name that no other has, with its place in every set. Answers ok, there, taken, full or
-- superseded.
-- ARGV: ws, id, name in lower case, item, sealed value, how many there may be, idempotency record ('' none), audit entry,
--       then field and value by turns
local ws, id, name = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', K.credential(ws, id)) == 1 then return 'there' end
if redis.call('HEXISTS', K.credential_names(ws), name) == 1 then return 'taken' end
if redis.call('ZCARD', K.credentials(ws)) >= tonumber(ARGV[6]) then return 'full' end
if not owns_key(ARGV[7], id) then return 'superseded' end
redis.call('HSET', K.credential(ws, id), 'item', ARGV[4], 'revision', 1, 'version', 1, 'sealed', ARGV[5])
redis.call('HSET', K.credential_names(ws), name, id)
redis.call('ZADD', K.credentials(ws), 0, id)
for i = 9, #ARGV, 2 do redis.call('ZADD', K.credentials_by(ws, ARGV[i], ARGV[i + 1]), 0, id) end
redis.call('SADD', K.sealed(), ws .. ' cred ' .. id)
note_vault(ws, id, ARGV[8])
return 'ok'
