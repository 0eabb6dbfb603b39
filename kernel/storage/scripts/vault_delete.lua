#!lua flags=allow-oom
-- Ends a credential that still is at the revision that was read: ok, else moved. Answers its users, and leaves it, when
-- there are some and it is not forced; forced, the agents among them are in error.
-- ARGV: ws, id, revision, its name in lower case, force (0 or 1), audit entry, then field and value of the sets it is in
local ws, id = ARGV[1], ARGV[2]
if redis.call('HGET', K.credential(ws, id), 'revision') ~= ARGV[3] then return 'moved' end
local users = redis.call('SMEMBERS', K.credential_users(ws, id))
if #users > 0 and ARGV[5] == '0' then return users end
for _, user in ipairs(users) do
  redis.call('SREM', K.credentials_used(ws, user), id)
  local agent = string.match(user, '^agent (%S+)$')
  if agent and redis.call('HGET', K.agent(ws, agent), 'status') == 'active' then set_agent_status(ws, agent, 'error') end
end
redis.call('DEL', K.credential(ws, id), K.credential_users(ws, id))
redis.call('HDEL', K.credential_names(ws), ARGV[4])
redis.call('ZREM', K.credentials(ws), id)
for i = 7, #ARGV, 2 do redis.call('ZREM', K.credentials_by(ws, ARGV[i], ARGV[i + 1]), id) end
redis.call('SREM', K.sealed(), ws .. ' cred ' .. id)
note_vault(ws, id, ARGV[6])
return 'ok'
