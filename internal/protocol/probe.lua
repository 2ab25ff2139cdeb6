-- probe: send a mailbox a message, as a release would.
--
-- KEYS[1]  a lock that is waited for, so that this goes to where its releases go
-- ARGV[1]  the channel of the mailbox
-- reply    what PUBLISH says. The message has how many subscribers this server has for
--          the channel; -1 if that may not be asked.

local reply = redis.pcall('PUBSUB', 'NUMSUB', ARGV[1])
return redis.call('PUBLISH', ARGV[1], 'probe ' .. (reply.err and -1 or reply[2]))
