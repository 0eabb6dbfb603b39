-- Puts the next vectors of a collection in use, made by another model or in other pieces. Those in use until now are to
-- be dropped. Answers 0 when the collection is not as it was read.
-- ARGV: ws, id, revision, live, what the name of its vectors begins with, item, 1 if only while it has no documents
local ws, id, revision, live = unpack(ARGV, 1, 4)
local found = redis.call('HMGET', K.collection(ws, id), 'revision', 'live')
if found[1] ~= revision or found[2] ~= live then return 0 end
if ARGV[7] == '1' and redis.call('HLEN', K.documents(ws, id)) > 0 then return 0 end
local fresh = string.format('%.0f', live + 1)
redis.call('HSET', K.collection(ws, id), 'item', ARGV[6], 'live', fresh)
redis.call('HINCRBY', K.collection(ws, id), 'revision', 1)
redis.call('UNLINK', K.documents_stale(ws, id))
redis.call('ZREM', K.vectors_left(), ARGV[5] .. fresh)
redis.call('ZADD', K.vectors_left(), 0, ARGV[5] .. live)
return 1
