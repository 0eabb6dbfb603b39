-- Accepts a job: record, indices and a place in the queue, or nothing.
-- ARGV: ws, id, collection, order as JSON, size (small or large), key, retry_of, now, most active,
--       idempotency record ('' none), bytes of a day (-1 any), credentials it needs
local ws, id, collection, order, size, key, retry_of, now = unpack(ARGV, 1, 8)
local most = tonumber(ARGV[11])
if redis.call('EXISTS', K.job(ws, id)) == 1 then return {'ok'} end
if redis.call('EXISTS', K.collection(ws, collection)) == 0 then return {'gone'} end
if redis.call('SCARD', K.jobs_active(ws)) >= tonumber(ARGV[9]) then return {'full'} end
if most >= 0 and tonumber(redis.call('HGET', K.spend(ws, utc_day(tonumber(now))), 'i') or 0) >= most then
  return {'spent'}
end
for credential in string.gmatch(ARGV[12], '%S+') do
  if not has_credentials(ws, credential) then return {'credential', credential} end
end
if not owns_key(ARGV[10], id) then return {'superseded'} end

add_credentials(ws, 'collection ' .. collection, ARGV[12])
return add_job(ws, id, collection, order, size, key, retry_of, now)
