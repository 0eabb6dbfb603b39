-- A page of a collection's documents, by the time they were taken in, newest first.
-- ARGV: ws, collection, before (a place), offset, limit
-- Answer: total, the number of the vectors in use, then place, id and entry of up to limit + 1 documents; false when
-- there is no such collection.
local ws, id = ARGV[1], ARGV[2]
if redis.call('EXISTS', K.collection(ws, id)) == 0 then return false end
local members, total = page({K.documents_newest(ws, id)}, '-', '+', ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]))
local out = {total, redis.call('HGET', K.collection(ws, id), 'live')}
for _, member in ipairs(members) do
  local place, document = string.match(member, '^(%S+) (%S+)$')
  out[#out + 1] = {place, document, redis.call('HGET', K.documents(ws, id), document)}
end
return out
