-- Names a workspace that a user is about to make in the user's list. ARGV: user, workspace, the most they may make ('' any
-- number). Answers 0 when they have made as many.
local user, ws, most = unpack(ARGV)
if redis.call('ZSCORE', K.user_workspaces(user), ws) then return 1 end
if most ~= '' and tonumber(redis.call('HGET', K.user(user), 'made') or 0) >= tonumber(most) then return 0 end
redis.call('HINCRBY', K.user(user), 'made', 1)
redis.call('ZADD', K.user_workspaces(user), 0, ws)
return 1
