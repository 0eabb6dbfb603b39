-- A collection: item, revision, live, chunks, bytes, documents. ARGV: ws, id
local ws, id = ARGV[1], ARGV[2]
local row = redis.call('HMGET', K.collection(ws, id), 'item', 'revision', 'live', 'chunks', 'bytes')
if not row[1] then return false end
row[6] = redis.call('HLEN', K.documents(ws, id))
return row
