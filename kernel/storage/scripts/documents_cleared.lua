#!lua flags=allow-oom
-- The chunks of these versions are deleted. ARGV: ws, collection, then `<document id> <version>` of each
local ws, collection = ARGV[1], ARGV[2]
for i = 3, #ARGV do redis.call('SREM', K.documents_stale(ws, collection), ARGV[i]) end
settle_stale(ws, collection)
