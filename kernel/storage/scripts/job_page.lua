-- A page of a collection's jobs, newest first.
-- ARGV: ws, collection, before, offset, limit, then the names of fields
local ws, collection, before, offset, limit = unpack(ARGV, 1, 5)
local ids, total = page({K.jobs_by(ws, collection)}, '-', '+', before, tonumber(offset), tonumber(limit))
local out = {total}
for _, id in ipairs(ids) do
  out[#out + 1] = {id, unpack(redis.call('HMGET', K.job(ws, id), unpack(ARGV, 6, #ARGV)))}
end
return out
