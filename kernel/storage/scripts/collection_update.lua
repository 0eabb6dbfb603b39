-- Changes a collection that still is at the revision that was read. Answers ok, changed or taken.
-- ARGV: ws, id, revision, its name and the new one in lower case, item
local ws, id, revision, was, name = unpack(ARGV, 1, 5)
if redis.call('HGET', K.collection(ws, id), 'revision') ~= revision then return 'changed' end
if not rename_collection(ws, id, was, name) then return 'taken' end
redis.call('HSET', K.collection(ws, id), 'item', ARGV[6])
redis.call('HINCRBY', K.collection(ws, id), 'revision', 1)
return 'ok'
