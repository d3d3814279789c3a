"""What the hot tier runs of the graph: each script is one exchange, and nothing comes between its commands.

A hash field is an edge, `weight time uses`: the weight as it was at that time (Unix milliseconds), and how often the
edge was strengthened. Weights of kinds that age halve with every half-life since; what is read is what they are by now.
"""

_AGED = """
local function aged(value, half, now)
  local weight, time, uses = string.match(value, '^(%S+) (%S+) (%S+)$')
  weight, time, uses = tonumber(weight), tonumber(time), tonumber(uses)
  if half > 0 and now > time then weight = weight * 2 ^ ((time - now) / half) end
  return weight, time, uses
end
"""

UPDATE = (
    _AGED
    + """
local now, total, forgotten = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
for at = 4, #ARGV, 6 do
  local key, target, half, most = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local held = redis.call('HGET', key, target)
  local before, uses = 0, 0
  if held then
    local time
    before, time, uses = aged(held, half, now)
  end
  local weight = math.min(math.max(before * tonumber(ARGV[at + 4]) + tonumber(ARGV[at + 5]), 0), 1)
  if tonumber(ARGV[at + 5]) > 0 then uses = uses + 1 end
  redis.call('ZADD', KEYS[1], now, key)
  if redis.call('HSET', key, target, string.format('%.9g %.0f %d', weight, now, uses)) == 1 then
    redis.call('INCR', KEYS[2])
    if redis.call('HLEN', key) > most then
      local edges, lightest, least = redis.call('HGETALL', key), nil, nil
      for i = 1, #edges, 2 do
        local w = aged(edges[i + 1], half, now)
        if not least or w < least or (w == least and edges[i] > lightest) then lightest, least = edges[i], w end
      end
      redis.call('HDEL', key, lightest)
      redis.call('DECR', KEYS[2])
    end
  end
end
local function forget(key)
  redis.call('DECRBY', KEYS[2], redis.call('HLEN', key))
  redis.call('DEL', key)
  redis.call('ZREM', KEYS[1], key)
end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', forgotten, 'LIMIT', 0, 16)) do forget(key) end
while tonumber(redis.call('GET', KEYS[2]) or '0') > total and redis.call('ZCARD', KEYS[1]) > 1 do
  forget(redis.call('ZRANGE', KEYS[1], 0, 0)[1])
end
return redis.status_reply('OK')
"""
)
"""KEYS: the hashes by when they were touched; the number of edges. ARGV: now; most edges in all; hashes touched before
this go; then of each change the hash, the target, the half-life (0: none), most edges of the hash, factor and add."""

READ = (
    _AGED
    + """
local now, first, second, kinds = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), {}
local at = 5
for i = 1, tonumber(ARGV[4]) do
  kinds[i] = {name = ARGV[at], half = tonumber(ARGV[at + 1]), onward = ARGV[at + 2] == '1'}
  at = at + 3
end
local owner, found, seen = ARGV[at], {}, {}
local function follow(node, most, onward)
  local edges = {}
  for _, kind in ipairs(kinds) do
    if kind.onward or not onward then
      local held = redis.call('HGETALL', 'russet:graph:' .. kind.name .. ':' .. owner .. node)
      for f = 1, #held, 2 do
        local weight, time, uses = aged(held[f + 1], kind.half, now)
        edges[#edges + 1] = {weight, held[f], kind.name, time, uses}
      end
    end
  end
  table.sort(edges, function(a, b)
    if a[1] ~= b[1] then return a[1] > b[1] end
    if a[2] ~= b[2] then return a[2] < b[2] end
    return a[3] < b[3]
  end)
  local targets = {}
  for i = 1, math.min(#edges, most) do
    local edge = edges[i]
    found[#found + 1] = node
    found[#found + 1] = edge[2]
    found[#found + 1] = edge[3]
    found[#found + 1] = string.format('%.9g %.0f %d', edge[1], edge[4], edge[5])
    targets[i] = edge[2]
  end
  return targets
end
local onward = {}
for i = at + 1, #ARGV do seen[ARGV[i]] = true end
for i = at + 1, #ARGV do
  for _, target in ipairs(follow(ARGV[i], first, false)) do
    if second > 0 and not seen[target] then
      seen[target] = true
      onward[#onward + 1] = target
    end
  end
end
for _, node in ipairs(onward) do follow(node, second, true) end
return #found > 0 and cjson.encode(found) or '[]'
"""
)
"""ARGV: now; most edges of a node in the first and the second hop (0: there is none); how many kinds, and of each its
name, its half-life and whether the second hop follows it; whose graph; then the nodes. Answers source, target, kind and
`weight time uses` of each edge, all of them as one JSON array: a reply of a hundred strings takes the client longer to
read than the script to run."""
