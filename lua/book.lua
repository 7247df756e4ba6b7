-- The book of one voucher, and how locks enter and leave it, in blocks. A verb names a block where it wants its text
-- (scripts.py puts it there): Lua would make a function anew in every call, at a sixth of what an empty script costs.
--
-- vs:{CODE} is one STRING, a JSON array of thirteen, so that a script reads it and a session in a single MGET, and gets
-- the numbers as numbers (Lua's own pattern matching takes twice as long). `constants` names its places:
--   life                      random, new whenever the code is created: a deleted voucher leaves its heir nothing
--   calls                     the put_vouchers, and deletions, that made it what it is: the last few
--   quantity credits points   the limits; quantity -1 is without limit
--   quantity credits points   used
--   quantity credits points   locked: the sum of vs:{CODE}:locks, expired locks not yet reclaimed included
--   next_expiry               no lock expires before it, in ms
--   locked_until              no lock expires after it, in ms: from then on nothing is locked, with no walk
--                             (locks that go before their time leave it as it is, until expired ones are next taken out)
-- Behind the array stands the session key of a lock that is alone, for most vouchers never have two at a time. It needs no
-- index, since its amounts and its expiry are the totals'; the next lock beside it begins the index with both.
-- vs:{CODE}:locks holds '<credits> <points> <session key>' by expiry in ms, and expires at locked_until (a minute later
-- if it is large).
-- vs:{CODE}:session:<key> is '<life> <expires_at_ms> <credits> <points> <calls>', and expires by itself. A session that
-- was released or redeemed keeps its words for a while, and a deleted voucher keeps ["deleted", calls].
-- Calls are random words, one of each call that made a key what it is, the last of them last, and '!' before one that
-- ended a session. A client that got no reply sends its call again by itself: it finds its word, does nothing, and is
-- answered as it was the first time, even if other calls have come in between.
--
-- A lock is live while now < expires_at_ms. Redis keeps a key through the very millisecond of its expiry, so what is
-- stored decides and not the key's presence; the native TTLs only give the memory back.

-- block: constants
local LIFE, CALLS, QUANTITY_LIMIT, CREDITS_LIMIT, POINTS_LIMIT = 1, 2, 3, 4, 5
local QUANTITY_USED, CREDITS_USED, POINTS_USED = 6, 7, 8
local QUANTITY_LOCKED, CREDITS_LOCKED, POINTS_LOCKED = 9, 10, 11
local NEXT_EXPIRY, LOCKED_UNTIL = 12, 13
-- What a book looks like; a decoder would take in much that this library never wrote.
local BOOK = '^%["%w+","[%w ]+",%-?%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+%]'
local SOLE = 14 -- behind the array: whose lock it is that has no index; '': all have
local SESSION_TEXT, OWN_CREDITS, OWN_POINTS = 15, 16, 17 -- beside the book: the session's live lock; never stored
local MAX_NUMBER = 9007199254740991 -- 2^53 - 1, what a double holds exactly: even a voucher without limit ends there
local REMEMBERED = 27 -- characters of earlier calls that a key keeps beside the last: two or three of them
local TOMBSTONE_MS = 120000 -- longer than any client repeats by itself: 11 timeouts of 5 s, and the pauses between
local MANY, LINGER_MS = 10000, 60000 -- an index of so many locks stays so long after the last of them, for a call to
-- UNLINK it, aside: Redis by default frees what expires at once, half a second for a million locks, and all clients wait
local reclaimable = 250 -- how many expired locks one script call takes out at most: it bounds how long the server is busy

-- block: clock
-- Sets `now`, in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- block: open
-- Reads `text`, what stands at `book_key`. Sets `book`, or nil where there is no voucher, and then the calls that were
-- remembered when it was deleted.
local book, calls_until_deleted
local _, array_ends = string.find(text or '', BOOK)
if array_ends then
  book = cjson.decode(string.sub(text, 1, array_ends))
  book[SOLE] = string.sub(text, array_ends + 1)
else
  -- MGET shows a key of another type as absent; GET tells that it is somebody else's.
  calls_until_deleted = string.match(text or redis.call('GET', book_key) or '["deleted",""]', '^%["deleted","([%w ]*)"%]$')
end
if not (book and book[QUANTITY_LIMIT] >= -1 or calls_until_deleted) then
  error('CORRUPT ' .. book_key)
end

-- block: save
-- Writes `book` to `book_key`.
redis.call('SET', book_key, string.format('["%s","%s",%d,%d,%d,%d,%d,%d,%d,%d,%d,%d,%d]', unpack(book, 1, LOCKED_UNTIL))
  .. book[SOLE])

-- block: sole
-- Sets `sole`, the only lock as the index would hold it.
local sole = string.format('%d %d ', book[CREDITS_LOCKED], book[POINTS_LOCKED]) .. book[SOLE]

-- block: index_sole
-- Begins the index with the lock that was alone.
-- include: sole
redis.call('ZADD', locks_key, string.format('%d', book[LOCKED_UNTIL]), sole)
book[SOLE] = ''

-- block: expire_index
-- Has Redis take the index away by itself when the last lock has expired.
redis.call('PEXPIREAT', locks_key, string.format('%d',
  book[LOCKED_UNTIL] + (book[QUANTITY_LOCKED] < MANY and 0 or LINGER_MS)))

-- block: reclaim
-- Takes expired locks out of `book`. Sets `again` when more than a batch had expired.
if book[QUANTITY_LOCKED] > 0 and now >= book[NEXT_EXPIRY] then
  local last = book[SOLE] == '' and redis.call('ZRANGE', locks_key, -1, -1, 'WITHSCORES')[2]
  if now >= (last or book[LOCKED_UNTIL]) + 0 then
    -- Also where Redis has expired the index: in this very millisecond it may still stand.
    redis.call('UNLINK', locks_key)
    book[QUANTITY_LOCKED], book[CREDITS_LOCKED], book[POINTS_LOCKED] = 0, 0, 0
    book[NEXT_EXPIRY], book[LOCKED_UNTIL], book[SOLE] = 0, 0, ''
  elseif last then
    local expired = redis.call('ZRANGEBYSCORE', locks_key, '-inf', string.format('%d', now), 'LIMIT', 0, reclaimable)
    for _, member in ipairs(expired) do
      local credits, points = string.match(member, '^(%d+) (%d+) ')
      if not credits then
        error('CORRUPT ' .. locks_key)
      end
      -- No balance ever falls below zero, whatever hands reached into Redis.
      book[QUANTITY_LOCKED] = math.max(0, book[QUANTITY_LOCKED] - 1)
      book[CREDITS_LOCKED] = math.max(0, book[CREDITS_LOCKED] - credits)
      book[POINTS_LOCKED] = math.max(0, book[POINTS_LOCKED] - points)
    end
    if #expired > 0 then
      redis.call('ZREMRANGEBYRANK', locks_key, 0, #expired - 1)
      reclaimable = reclaimable - #expired
    end
    book[NEXT_EXPIRY] = redis.call('ZRANGE', locks_key, 0, 0, 'WITHSCORES')[2] + 0
    book[LOCKED_UNTIL] = last + 0
    -- include: expire_index
    again = again or now >= book[NEXT_EXPIRY]
  end
  -- include: save
end

-- block: session
-- Reads `session_text`, what stands at the session's key. Sets what its live lock holds, and where there are words of a
-- lock, live or not: `calls`.
local own_quantity, own_credits, own_points, own_expires_at = 0, 0, 0, 0
local session_life, expires_at_text, credits_text, points_text, calls
if session_text then
  session_life, expires_at_text, credits_text, points_text, calls =
    string.match(session_text, '^(%w+) (%d+) (%d+) (%d+)( [%w! ]+)$')
  if not session_life then
    error('CORRUPT ' .. book_key)
  elseif session_life == book[LIFE] and now < expires_at_text + 0 and not string.find(calls, '!%w+$') then
    own_quantity, own_credits, own_points, own_expires_at = 1, credits_text + 0, points_text + 0, expires_at_text + 0
    book[SESSION_TEXT], book[OWN_CREDITS], book[OWN_POINTS] = session_text, credits_text, points_text
  end
end

-- block: judge
-- Judges `credits` and `points` against limit - used - the locks of other sessions. Sets `fits` to false where they do
-- not fit. Behind the first `n` items of `reply` it tells: reason ('': it fits), locked_by_others, retry_after_ms, and
-- quantity (-1: without limit), credits, points available to the caller.
local quantity_limit = book[QUANTITY_LIMIT]
local quantity_left = (quantity_limit < 0 and MAX_NUMBER or quantity_limit) - book[QUANTITY_USED]
local credits_left, points_left = book[CREDITS_LIMIT] - book[CREDITS_USED], book[POINTS_LIMIT] - book[POINTS_USED]
local would_fit = quantity_left >= 1
  and (credits == 0 or credits_left >= credits) and (points == 0 or points_left >= points)
-- What others hold is never less than nothing, should the totals have been tampered with.
quantity_left = quantity_left - math.max(0, book[QUANTITY_LOCKED] - own_quantity)
credits_left = credits_left - math.max(0, book[CREDITS_LOCKED] - own_credits)
points_left = points_left - math.max(0, book[POINTS_LOCKED] - own_points)
local reason, held, retry_after_ms = '', 0, 0
if quantity_left < 1 then
  reason = 'quantity_exceeded'
elseif credits > 0 and credits_left < credits then
  reason = 'gift_amount_exceeded'
elseif points > 0 and points_left < points then
  reason = 'loyalty_card_points_exceeded'
end
if reason ~= '' then
  fits = false
  if would_fit then
    held = 1
    local soonest = redis.call('ZRANGEBYSCORE', locks_key, '(' .. string.format('%d', now), '+inf',
      'WITHSCORES', 'LIMIT', 0, 2)
    local own = own_quantity == 1 and credits_text .. ' ' .. points_text .. ' ' .. session_key
    retry_after_ms = math.max(1, ((soonest[1] == own and soonest[4] or soonest[2]) or book[LOCKED_UNTIL]) - now)
  end
end
reply[n + 1], reply[n + 2], reply[n + 3] = reason, held, retry_after_ms
reply[n + 4] = quantity_limit < 0 and -1 or math.max(0, quantity_left)
reply[n + 5], reply[n + 6] = math.max(0, credits_left), math.max(0, points_left)

-- block: lock
-- Locks `credits` and `points` in `book`, which the caller saves, for the session; `earlier` is what stands at its key.
-- What comes first is refused by a server that is out of memory, and by a key of another type: nothing has changed.
local amounts, added, removed, was_sole = credits .. ' ' .. points, 0, 0, book[SOLE] ~= ''
local member = amounts .. ' ' .. session_key
local credits_held, points_held = book[OWN_CREDITS] or 0, book[OWN_POINTS] or 0
local is_sole = book[SOLE] == session_key or book[QUANTITY_LOCKED] == 0 and not book[SESSION_TEXT]
if not is_sole then
  if was_sole then
    -- include: index_sole
  end
  added = redis.call('ZADD', locks_key, expires_at_text, member)
  if book[SESSION_TEXT] and (credits_held ~= credits or points_held ~= points) then
    removed = redis.call('ZREM', locks_key, credits_held .. ' ' .. points_held .. ' ' .. session_key)
  end
end
local words = book[LIFE] .. ' ' .. expires_at_text .. ' ' .. amounts
if earlier then
  -- What is cut in the middle of a word is nobody's word.
  words = words .. ' ' .. string.sub(string.match(earlier, '^%w+ %d+ %d+ %d+(.*)$'), -REMEMBERED)
end
words = words .. ' ' .. call
if earlier then
  redis.call('SET', session_name, words, 'PXAT', expires_at_text)
elseif not redis.call('SET', session_name, words, 'PXAT', expires_at_text, 'NX') then
  if was_sole then
    redis.call('UNLINK', locks_key)
  else
    redis.call('ZREM', locks_key, member)
  end
  error('CORRUPT ' .. session_name) -- a key of another type, which MGET has shown as absent
end
if is_sole then
  book[SOLE], book[QUANTITY_LOCKED] = session_key, 1
  book[CREDITS_LOCKED], book[POINTS_LOCKED] = credits + 0, points + 0
  book[NEXT_EXPIRY], book[LOCKED_UNTIL] = expires_at, expires_at
else
  if was_sole or expires_at > book[LOCKED_UNTIL] then
    book[LOCKED_UNTIL] = math.max(expires_at, book[LOCKED_UNTIL])
    -- include: expire_index
  end
  if book[QUANTITY_LOCKED] == 0 or expires_at < book[NEXT_EXPIRY] then
    book[NEXT_EXPIRY] = expires_at
  end
  -- The totals change by what the index has changed by, so nothing that other hands did to it is doubled.
  book[QUANTITY_LOCKED] = math.max(0, book[QUANTITY_LOCKED] + added - removed)
  book[CREDITS_LOCKED] = math.max(0, book[CREDITS_LOCKED] + added * credits - removed * credits_held)
  book[POINTS_LOCKED] = math.max(0, book[POINTS_LOCKED] + added * points - removed * points_held)
end

-- block: unlock
-- Takes the session's live lock out of `book`, which the caller saves. ZREM comes first, even where there is no index: it
-- is refused by a key of another type, and a server that is out of memory allows it and all that follows it. What had
-- left the index by other hands has left the totals to repair.
local credits_held, points_held = book[OWN_CREDITS], book[OWN_POINTS]
local removed = redis.call('ZREM', locks_key, credits_held .. ' ' .. points_held .. ' ' .. session_key)
if book[SOLE] == session_key then
  removed, book[SOLE] = 1, ''
end
redis.call('SET', session_name, book[SESSION_TEXT] .. ' !' .. call, 'PX', TOMBSTONE_MS)
book[QUANTITY_LOCKED] = math.max(0, book[QUANTITY_LOCKED] - removed)
book[CREDITS_LOCKED] = math.max(0, book[CREDITS_LOCKED] - removed * credits_held)
book[POINTS_LOCKED] = math.max(0, book[POINTS_LOCKED] - removed * points_held)
if book[QUANTITY_LOCKED] == 0 then
  book[CREDITS_LOCKED], book[POINTS_LOCKED], book[NEXT_EXPIRY], book[LOCKED_UNTIL] = 0, 0, 0, 0
end

-- block: state
-- Answers with limits (quantity -1: without limit), used, locked; quantity, credits, points each.
do
  return {'state', unpack(book, QUANTITY_LIMIT, POINTS_LOCKED)}
end
