-- A number for vectors of a collection that none of them ever had; 0 when the collection is gone. ARGV: ws, id
local record = K.collection(ARGV[1], ARGV[2])
local found = redis.call('HMGET', record, 'live', 'numbered')
if not found[1] then return 0 end
local number = math.max(found[1], found[2] or 0) + 1
redis.call('HSET', record, 'numbered', number)
return number
