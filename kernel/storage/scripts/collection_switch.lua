-- Puts other vectors of a collection in use that has no documents. Those in use until now are to be dropped. Answers
-- ok, changed (it is not as it was read) or taken.
-- ARGV: ws, id, revision, its name and the new one in lower case, item, live, what the name of its vectors begins with,
--       the number of the new ones
local ws, id, revision, was, name, item, live, stem = unpack(ARGV, 1, 8)
local found = redis.call('HMGET', K.collection(ws, id), 'revision', 'live')
if found[1] ~= revision or found[2] ~= live then return 'changed' end
if redis.call('HLEN', K.documents(ws, id)) > 0 then return 'changed' end
if not rename_collection(ws, id, was, name) then return 'taken' end
local fresh = ARGV[9]
redis.call('HSET', K.collection(ws, id), 'item', item, 'live', fresh)
redis.call('HINCRBY', K.collection(ws, id), 'revision', 1)
redis.call('UNLINK', K.documents_stale(ws, id))
settle_stale(ws, id)
redis.call('ZREM', K.vectors_left(), stem .. fresh)
redis.call('ZADD', K.vectors_left(), 0, stem .. live)
return 'ok'
