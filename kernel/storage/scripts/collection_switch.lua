-- Puts the next vectors of a collection in use, made by another model or in other pieces. Those in use until now are to
-- be dropped. Answers ok, changed (it is not as it was read) or taken.
-- ARGV: ws, id, revision, its name and the new one in lower case, item, live, what the name of its vectors begins with,
--       1 if only while it has no documents
local ws, id, revision, was, name, item, live, stem = unpack(ARGV, 1, 8)
local found = redis.call('HMGET', K.collection(ws, id), 'revision', 'live')
if found[1] ~= revision or found[2] ~= live then return 'changed' end
if ARGV[9] == '1' and redis.call('HLEN', K.documents(ws, id)) > 0 then return 'changed' end
if not rename_collection(ws, id, was, name) then return 'taken' end
local fresh = string.format('%.0f', live + 1)
redis.call('HSET', K.collection(ws, id), 'item', item, 'live', fresh)
redis.call('HINCRBY', K.collection(ws, id), 'revision', 1)
redis.call('UNLINK', K.documents_stale(ws, id))
settle_stale(ws, id)
redis.call('ZREM', K.vectors_left(), stem .. fresh)
redis.call('ZADD', K.vectors_left(), 0, stem .. live)
return 'ok'
