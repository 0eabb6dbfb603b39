-- Another value of a credential that is as it was read: ok, else moved or superseded. Nobody is told of a renewal: it leaves
-- the revision, which stands for what people say of it.
-- ARGV: ws, id, version, revision, item, sealed value, idempotency record ('' none), audit entry ('' a renewal)
local ws, id = ARGV[1], ARGV[2]
local found = redis.call('HMGET', K.credential(ws, id), 'version', 'revision')
if found[1] ~= ARGV[3] or found[2] ~= ARGV[4] then return 'moved' end
if not owns_key(ARGV[7], id) then return 'superseded' end
redis.call('HSET', K.credential(ws, id), 'item', ARGV[5], 'sealed', ARGV[6])
redis.call('HINCRBY', K.credential(ws, id), 'version', 1)
if ARGV[8] ~= '' then redis.call('HINCRBY', K.credential(ws, id), 'revision', 1) end
note_vault(ws, id, ARGV[8])
return 'ok'
