-- A member of a workspace. ARGV: workspace, user, role, email ('' none), the most members there may be, name and now of a
-- user to be made, whose id falls in this shard ('' when there is the user), audit.
-- Answers ok | gone (no workspace) | member (already) | email (another's) | full.
local ws, user, role, email, most, name, now, audit = unpack(ARGV)
local lowered = string.lower(email)
if redis.call('EXISTS', K.workspace(ws)) == 0 then return 'gone' end
if redis.call('HEXISTS', K.members(ws), user) == 1 then return 'member' end
if redis.call('HLEN', K.members(ws)) >= tonumber(most) then return 'full' end
if email ~= '' and redis.call('HEXISTS', K.emails(ws), lowered) == 1 then return 'email' end
if name ~= '' then
  redis.call('HSET', K.user(user), 'name', name, 'email', email, 'created_at', now)
  redis.call('ZADD', K.user_workspaces(user), 0, ws)
end
redis.call('HSET', K.members(ws), user, role)
if email ~= '' then redis.call('HSET', K.emails(ws), lowered, user) end
access_changed(ws)
note_audit(ws, audit)
return 'ok'
