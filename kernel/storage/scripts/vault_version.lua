-- Another value of a credential that still is at the version that was read: ok, else moved or superseded. What people say
-- of it stays as it is now; of `item` only what tells of the value is taken.
-- ARGV: ws, id, version, item, sealed value, idempotency record ('' none), audit entry ('' none)
local ws, id, version = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', K.credential(ws, id), 'version', 'item')
if found[1] ~= version then return 'moved' end
if not owns_key(ARGV[6], id) then return 'superseded' end
local item, new = cjson.decode(found[2]), cjson.decode(ARGV[4])
for _, field in ipairs({'hint', 'expires_at', 'updated_at', 'rotated_at'}) do item[field] = new[field] end
local text = string.gsub(cjson.encode(item), '"tags":{}', '"tags":[]')
redis.call('HSET', K.credential(ws, id), 'item', text, 'sealed', ARGV[5])
redis.call('HINCRBY', K.credential(ws, id), 'revision', 1)
redis.call('HINCRBY', K.credential(ws, id), 'version', 1)
note_vault(ws, id, ARGV[7])
return 'ok'
