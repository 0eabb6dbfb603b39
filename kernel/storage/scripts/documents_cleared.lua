#!lua flags=allow-oom
-- The chunks of these versions are deleted from the vectors of that number. Answers 0 when others are in use by now.
-- ARGV: ws, collection, number, then `<document id> <version>` of each
local ws, collection = ARGV[1], ARGV[2]
if redis.call('HGET', K.collection(ws, collection), 'live') ~= ARGV[3] then return 0 end
for i = 4, #ARGV do redis.call('SREM', K.documents_stale(ws, collection), ARGV[i]) end
settle_stale(ws, collection)
return 1
