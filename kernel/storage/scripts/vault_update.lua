-- Changes what is said of a credential that still is at the revision and version that were read. Answers ok, moved, taken,
-- or, when it is renamed and agents go by its name, its users.
-- ARGV: ws, id, `<revision> <version>`, its name and its new name (in lower case), item, audit entry, how many sets it leaves, then field
--       and value of those, then of the sets it joins
local ws, id, read, was, name = unpack(ARGV, 1, 5)
local names, join = K.credential_names(ws), 9 + 2 * tonumber(ARGV[8])
local found = redis.call('HMGET', K.credential(ws, id), 'revision', 'version')
if not found[1] or found[1] .. ' ' .. found[2] ~= read then return 'moved' end
if name ~= was then
  if redis.call('HEXISTS', names, name) == 1 then return 'taken' end
  local users = redis.call('SMEMBERS', K.credential_users(ws, id))
  for _, user in ipairs(users) do
    if string.match(user, '^agent ') then return users end
  end
  redis.call('HDEL', names, was)
  redis.call('HSET', names, name, id)
end
for i = 9, join - 1, 2 do redis.call('ZREM', K.credentials_by(ws, ARGV[i], ARGV[i + 1]), id) end
for i = join, #ARGV, 2 do redis.call('ZADD', K.credentials_by(ws, ARGV[i], ARGV[i + 1]), 0, id) end
redis.call('HSET', K.credential(ws, id), 'item', ARGV[6])
redis.call('HINCRBY', K.credential(ws, id), 'revision', 1)
note_vault(ws, id, ARGV[7])
return 'ok'
