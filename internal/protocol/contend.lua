-- contend.lua: the rest of acquire.lua, for a lock that somebody holds or waits
-- for, or that a reader has just taken.

-- Queues ID, and hands the lock off if no writer holds it. Returns the reply of
-- the script, or nil if ID gets the lock after all: by joining the readers, or,
-- if the second result is true, alone.
local function queue_up(now, holder, shared)
  local place, reachable, more = 0, true, false
  if ROUND ~= '0' then
    place, reachable = enqueue(now)
  else
    only_on_master()
  end
  if not holder or shared then
    -- The last holder may have ended without a hand-off. Or a writer died at
    -- the head while readers hold, with readers behind it.
    local floor = FENCE_TTL - TTL
    local outcome = hand_off({now = now, floor = floor, asker = ID, shared = shared})
    if outcome.token or outcome.failed then
      return outcome.token or outcome.failed
    end
    holder = outcome.held and redis.call('GET', LOCK)
    shared = is_shared(holder)
    more = outcome.more
    if READS and shared and redis.call('ZCARD', QUEUE) == 0 then
      return nil, false
    end
  end
  if holder or more then
    return refuse(now, holder or '', shared, place, reachable, more)
  end
  return nil, true
end

now = tonumber(now)
local holder = not free and redis.call('GET', LOCK) -- false: nobody
local shared = is_shared(holder)
if shared and drop_expired(now) > 0 and not expire_with_readers(now) then
  holder, shared = false, false
end

local joins = READS and shared and (not waiting or redis.call('ZSCORE', READERS, ID))
if holder == ID then -- granted before: the reply or the message was lost
  prolong(LOCK, TTL)
elseif not free and not joins then
  local reply
  reply, free = queue_up(now, holder, shared)
  if reply then
    return reply
  end
  if free then
    redis.call('SET', LOCK, READS and SHARED or ID, 'PX', TTL)
  end
end

local token, failed
if READS then
  if free then
    redis.call('UNLINK', READERS)
  end
  failed = give_share(ID, TTL, now)
end
if not failed then
  token, failed = next_token(now, FENCE_TTL, RESERVE)
end
if failed and holder ~= ID then -- no lease without a token
  revoke(ID, READS, now)
end
return failed or token
