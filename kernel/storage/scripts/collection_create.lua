-- A new, empty collection under a name that no other has. Answers ok, there, taken or superseded.
-- ARGV: ws, id, name in lower case, item, idempotency record ('' none), its vectors, which were to be dropped
local ws, id, name = ARGV[1], ARGV[2], ARGV[3]
local collection = K.collection(ws, id)
if redis.call('EXISTS', collection) == 1 then return 'there' end
if redis.call('HEXISTS', K.collection_names(ws), name) == 1 then return 'taken' end
if not owns_key(ARGV[5], id) then return 'superseded' end
redis.call('HSET', collection, 'item', ARGV[4], 'revision', 1, 'live', 1, 'chunks', 0, 'bytes', 0)
redis.call('HSET', K.collection_names(ws), name, id)
redis.call('ZADD', K.collections(ws), 0, id)
redis.call('ZREM', K.vectors_left(), ARGV[6])
return 'ok'
