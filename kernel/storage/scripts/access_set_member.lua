#!lua flags=allow-oom
-- Gives a member another role, or ends the membership. ARGV: workspace, user, role as read, new role ('' ends it), the
-- user's email, audit. Answers ok | moved (the role is another by now) | last (of the owners).
local ws, user, was, role, email, audit = unpack(ARGV)
local members, owners = K.members(ws), 0
if redis.call('HGET', members, user) ~= was then return 'moved' end
for _, other in ipairs(redis.call('HVALS', members)) do
  if other == 'owner' then owners = owners + 1 end
end
if was == 'owner' and role ~= 'owner' and owners == 1 then return 'last' end
if role == '' then
  redis.call('HDEL', members, user)
  redis.call('HDEL', K.emails(ws), string.lower(email))
else
  redis.call('HSET', members, user, role)
end
access_changed(ws)
note_audit(ws, audit)
return 'ok'
