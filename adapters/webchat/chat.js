
"use strict";
(() => {
  const PROTOCOL = 4;
  const CLIENT = { id: "webchat-ui", version: "1", platform: "web", mode: "webchat" };
  const SCOPES = ["operator.read", "operator.write"];
  const SECRET = "openclaw.secret";
  const AGENT = "openclaw.agent";
  const RETRY_MS = 500;
  const RETRY_MS_MAX = 15000;
  const HANDSHAKE_MS_MAX = 10000;
  const HISTORY_MAX = 100;
  const LOG_MAX = 500;

  const part = (id) => document.getElementById(id);
  const [log, state, problem, login, secretField, compose, text, send, stop, agents] =
    ["log", "state", "problem", "login", "secret", "compose", "text", "send", "stop", "agent"].map(part);

  // One connection at a time; what comes of an earlier one is not heard.
  let socket = null;
  let hello = null;
  let calls = new Map();
  let attempts = 0;
  let retry = 0;
  let watch = 0;
  // Messages whose reply is not over, by their run.
  const runs = new Map();

  // The token comes in the fragment, which is not sent; it is taken out of sight, and kept for this tab only.
  const takeSecret = () => {
    const found = new URLSearchParams(location.hash.slice(1)).get("token");
    if (location.hash) history.replaceState(null, "", location.pathname);
    if (found) sessionStorage.setItem(SECRET, found);
    return Boolean(found);
  };

  const show = (word, name) => {
    state.textContent = word;
    state.dataset.state = name;
    send.disabled = name !== "open" || !agents.value;
    agents.disabled = name !== "open";
  };

  const complain = (words) => {
    problem.hidden = !words;
    problem.textContent = words;
  };

  const base64url = (bytes) =>
    btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

  const stored = (mode, use) =>
    new Promise((resolve, reject) => {
      const open = indexedDB.open("openclaw", 1);
      open.onupgradeneeded = () => open.result.createObjectStore("device");
      open.onerror = () => reject(open.error);
      open.onsuccess = () => {
        const request = use(open.result.transaction("device", mode).objectStore("device"));
        request.onerror = () => reject(request.error);
        request.onsuccess = () => resolve(request.result);
      };
    });

  // What this browser signs with. It cannot be read out, not even by this page.
  const makePair = async () => {
    if (!crypto.subtle) throw new Error("this page has to be opened as localhost, or over https");
    try {
      return await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
    } catch {
      throw new Error("this browser cannot sign with Ed25519, by which the gateway tells browsers apart");
    }
  };

  let pair = null;
  const device = async () => {
    if (!pair) {
      // A browser that keeps nothing is another device each time.
      pair = await stored("readonly", (store) => store.get("pair")).catch(() => null);
    }
    if (!pair) {
      pair = await makePair();
      await stored("readwrite", (store) => store.put(pair, "pair")).catch(() => null);
    }
    const key = await crypto.subtle.exportKey("raw", pair.publicKey);
    const digest = await crypto.subtle.digest("SHA-256", key);
    const id = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return { id, publicKey: base64url(key) };
  };

  const identify = async (nonce, secret) => {
    const { id, publicKey } = await device();
    const signedAt = Date.now();
    const { id: client, mode, platform } = CLIENT;
    const said = ["v3", id, client, mode, "operator", SCOPES.join(","), signedAt, secret, nonce, platform, ""].join("|");
    const signature = await crypto.subtle.sign({ name: "Ed25519" }, pair.privateKey, new TextEncoder().encode(said));
    return { id, publicKey, signature: base64url(signature), signedAt, nonce };
  };

  const call = (method, params) =>
    new Promise((resolve, reject) => {
      if (!socket || socket.readyState !== WebSocket.OPEN) {
        reject({ message: "not connected" });
        return;
      }
      const id = crypto.randomUUID();
      calls.set(id, { resolve, reject });
      socket.send(JSON.stringify({ type: "req", id, method, params }));
    });

  const sessionKey = () => `agent:${agents.value}:main`;

  const add = (kind, words) => {
    const main = log.parentElement;
    const atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 80;
    const item = document.createElement("li");
    item.className = kind;
    item.textContent = words;
    log.append(item);
    while (log.childElementCount > LOG_MAX) log.firstElementChild.remove();
    if (atEnd) item.scrollIntoView({ block: "end" });
    return item;
  };

  const textOf = (message) => {
    const content = message?.content;
    if (typeof content === "string") return content;
    return (content ?? []).filter((piece) => piece.type === "text").map((piece) => piece.text).join("");
  };

  const openRuns = () => [...runs.values()].filter((run) => run.session === sessionKey());

  const refresh = () => {
    stop.hidden = openRuns().length === 0;
  };

  // The reply of a run, which may have been asked for elsewhere.
  const replyOf = (id) => {
    let run = runs.get(id);
    if (!run) {
      run = { id, session: sessionKey() };
      runs.set(id, run);
    }
    if (!run.item?.isConnected) {
      run.item = add("assistant", "");
      run.item.setAttribute("aria-busy", "true");
    }
    refresh();
    return run.item;
  };

  const over = (id, words) => {
    const run = runs.get(id);
    runs.delete(id);
    if (run?.item) {
      run.item.removeAttribute("aria-busy");
      if (!run.item.textContent) run.item.remove();
    }
    if (words) add("error", words);
    refresh();
  };

  const heardChat = (chat) => {
    if (chat.sessionKey !== sessionKey()) return;
    const said = textOf(chat.message);
    if (said || chat.state === "delta") {
      const item = replyOf(chat.runId);
      const main = log.parentElement;
      const atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 80;
      item.textContent = said;
      if (atEnd) item.scrollIntoView({ block: "end" });
    }
    if (chat.state === "final") over(chat.runId);
    if (chat.state === "aborted") over(chat.runId, "stopped");
    if (chat.state === "error") over(chat.runId, chat.errorMessage ?? "the agent failed");
  };

  const heardAgent = (event) => {
    if (event.sessionKey !== sessionKey() || event.stream !== "tool" || event.data.phase !== "start") return;
    add("note", `${event.data.name} is used`);
  };

  const loadHistory = async () => {
    if (!hello?.features.methods.includes("chat.history")) return;
    const key = sessionKey();
    const { messages } = await call("chat.history", { sessionKey: key, limit: HISTORY_MAX });
    if (key !== sessionKey()) return;
    log.replaceChildren();
    for (const message of messages ?? []) {
      const said = textOf(message);
      if (said) add(message.role === "user" ? "user" : "assistant", said);
    }
    for (const run of openRuns()) if (run.words) add("user", run.words);
  };

  // A message that is sent again under the same name is given to its agent once.
  const give = async (run) => {
    try {
      const { status } = await call("chat.send", {
        sessionKey: run.session,
        message: run.words,
        idempotencyKey: run.id,
      });
      if (status === "ok" && runs.has(run.id)) {
        over(run.id);
        await loadHistory();
      }
    } catch (error) {
      // It is sent again when there is a connection.
      if (error.code) over(run.id, error.message);
    }
  };

  const welcome = async (payload) => {
    hello = payload;
    attempts = 0;
    complain("");
    login.hidden = true;
    const list = await call("agents.list", {});
    const wanted = sessionStorage.getItem(AGENT) ?? list.defaultId;
    agents.replaceChildren(
      ...list.agents.map(({ id, name }) => new Option(name ?? id, id, false, id === wanted)),
    );
    show("connected", "open");
    await loadHistory().catch((error) => complain(error.message));
    for (const run of [...runs.values()]) if (run.words) give(run);
    refresh();
  };

  const refused = (error) => {
    const code = error.details?.code ?? "";
    const words = code === "PAIRING_REQUIRED" || error.code === "NOT_PAIRED"
      ? "this browser has to be let in first: somebody who decides on devices sees its request"
      : error.message;
    complain(`The gateway refuses this page: ${words}`);
    if (code.startsWith("AUTH_") && !error.retryable) {
      sessionStorage.removeItem(SECRET);
      askForSecret();
      return true;
    }
    return false;
  };

  const askForSecret = () => {
    clearTimeout(retry);
    retry = 0;
    login.hidden = false;
    secretField.focus();
    show("not connected", "closed");
  };

  const shakeHands = async (own, nonce) => {
    const secret = sessionStorage.getItem(SECRET) ?? "";
    const signed = await identify(nonce, secret);
    if (own !== socket) return;
    const params = {
      minProtocol: PROTOCOL,
      maxProtocol: PROTOCOL,
      client: CLIENT,
      role: "operator",
      scopes: SCOPES,
      caps: ["tool-events"],
      device: signed,
    };
    if (secret) params.auth = { token: secret };
    const payload = await call("connect", params);
    await welcome(payload);
  };

  // A gateway that says nothing for two ticks is gone, whatever the socket thinks.
  const stillThere = (own, patienceMs) => {
    clearTimeout(watch);
    watch = setTimeout(() => own.close(), patienceMs);
  };

  const connect = () => {
    clearTimeout(retry);
    retry = 0;
    const former = socket;
    socket = null;
    former?.close();
    hello = null;
    show(attempts ? "connecting again" : "connecting", "connecting");
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const own = new WebSocket(`${scheme}//${location.host}/`);
    socket = own;
    stillThere(own, HANDSHAKE_MS_MAX);
    let stays = true;
    own.onmessage = ({ data }) => {
      if (own !== socket) return;
      stillThere(own, hello ? 2 * hello.policy.tickIntervalMs : HANDSHAKE_MS_MAX);
      const frame = JSON.parse(data);
      if (frame.type === "res") {
        const open = calls.get(frame.id);
        calls.delete(frame.id);
        if (frame.ok) open?.resolve(frame.payload);
        else open?.reject(frame.error);
      } else if (frame.event === "connect.challenge") {
        shakeHands(own, frame.payload.nonce).catch((error) => {
          if (own !== socket) return;
          if (error.code) stays = !refused(error);
          else complain(error.message ?? "the connection was lost");
          own.close();
        });
      } else if (frame.event === "chat") {
        heardChat(frame.payload);
      } else if (frame.event === "agent") {
        heardAgent(frame.payload);
      }
    };
    own.onclose = ({ code }) => {
      if (own !== socket) return;
      clearTimeout(watch);
      socket = null;
      const lost = calls;
      calls = new Map();
      for (const { reject } of lost.values()) reject({ message: "the connection was lost" });
      if (code === 4001) {
        complain("The gateway has another token now.");
        sessionStorage.removeItem(SECRET);
        stays = false;
        askForSecret();
      }
      if (!stays) return;
      const delay = Math.min(RETRY_MS * 2 ** attempts, RETRY_MS_MAX) * (0.75 + Math.random() / 2);
      attempts += 1;
      show("not connected, trying again", "closed");
      retry = setTimeout(connect, delay);
    };
  };

  const say = () => {
    const words = text.value.trim();
    if (!words || send.disabled) return;
    text.value = "";
    const run = { id: crypto.randomUUID(), session: sessionKey(), words };
    runs.set(run.id, run);
    add("user", words);
    refresh();
    give(run);
  };

  const halt = () => {
    for (const run of openRuns()) {
      call("chat.abort", { sessionKey: run.session, runId: run.id }).catch((error) => complain(error.message));
    }
  };

  compose.addEventListener("submit", (event) => {
    event.preventDefault();
    say();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      say();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") halt();
  });
  stop.addEventListener("click", halt);
  agents.addEventListener("change", () => {
    sessionStorage.setItem(AGENT, agents.value);
    log.replaceChildren();
    loadHistory().catch((error) => complain(error.message));
    refresh();
    text.focus();
  });
  login.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(SECRET, secretField.value.trim());
    secretField.value = "";
    login.hidden = true;
    complain("");
    attempts = 0;
    connect();
  });
  addEventListener("hashchange", () => {
    if (takeSecret()) {
      attempts = 0;
      connect();
    }
  });
  addEventListener("online", () => {
    if (retry) connect();
  });

  takeSecret();
  connect();
})();
