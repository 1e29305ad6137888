"use strict";
/*
 * A chat over /v1/chat/completions, streamed. The conversation lives in this page only; the API key in the tab's session.
 */
let messages = []; /* {role, content} as they are sent */
let running = null; /* the AbortController of the reply under way */

/* --- Server-sent events --- */

/* Calls take with each event's data, whatever pieces they come in. */
async function readEvents(body, take) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    text += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = text.split(/\r?\n/);
    text = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) take(line.slice(5).trim());
    if (done) return;
  }
}

/* --- Messages on the page --- */

/* Text with what stands between lines of ``` as code. */
function fillText(into, text) {
  into.replaceChildren(...text.split(/^```[^\n]*\n?/m).map((part, i) => element(i % 2 ? "pre" : "p", "", part))
    .filter(node => node.textContent !== ""));
}

function addMessage(role, text) {
  const box = element("article", "message " + role), body = element("div");
  fillText(body, text);
  box.append(body);
  byId("messages").append(box);
  byId("messages").scrollTop = byId("messages").scrollHeight;
  return box;
}

/* What arrives for one reply, drawn at most once a frame. */
class Reply {
  constructor() {
    this.text = this.thought = "";
    this.started = performance.now();
    this.first = this.usage = this.reason = null;
    this.box = addMessage("assistant", "");
    this.drawn = true;
  }

  take(data) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    if (event.usage) this.usage = event.usage;
    for (const choice of event.choices || []) {
      const delta = choice.delta || {};
      if ((delta.content || delta.reasoning_content) && this.first === null) this.first = performance.now();
      this.text += delta.content || "";
      this.thought += delta.reasoning_content || "";
      if (choice.finish_reason) this.reason = choice.finish_reason;
    }
    if (this.drawn) {
      this.drawn = false;
      requestAnimationFrame(() => this.draw());
    }
  }

  draw() {
    const list = byId("messages"), atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    fillText(this.box.firstChild, this.text);
    if (this.thought) this.box.firstChild.prepend(element("p", "thought", this.thought));
    if (atEnd) list.scrollTop = list.scrollHeight;
    this.drawn = true;
  }

  end(fault) {
    this.draw();
    if (fault) this.box.append(element("p", "fault", fault));
    const said = [], now = performance.now();
    if (this.first !== null) said.push("first token after " + ((this.first - this.started) / 1000).toFixed(2) + " s");
    if (this.usage) {
      const { prompt_tokens: prompt, completion_tokens: tokens } = this.usage;
      said.unshift(prompt + " + " + tokens + " tokens");
      if (tokens > 1 && now > this.first) said.push(rateText((tokens - 1) * 1000 / (now - this.first)) + " tokens/s");
    }
    if (this.reason && this.reason !== "stop") said.push("ended by " + this.reason);
    if (said.length > 0) this.box.append(element("footer", "", said.join(", ")));
    const list = byId("messages");
    list.scrollTop = list.scrollHeight;
  }
}

/* --- Asking --- */

function bodyOf() {
  const body = { messages: [...messages], stream: true, stream_options: { include_usage: true } };
  const system = byId("system").value.trim(), most = byId("max-tokens").valueAsNumber;
  const temperature = byId("temperature").valueAsNumber;
  if (system) body.messages.unshift({ role: "system", content: system });
  if (Number.isFinite(temperature)) body.temperature = temperature;
  if (Number.isFinite(most)) body.max_completion_tokens = most;
  if (byId("format").value) body.kv_format = byId("format").value;
  return body;
}

async function faultOf(reply) {
  const text = await reply.text();
  try {
    return JSON.parse(text).error.message;
  } catch (_) {
    return "HTTP " + reply.status;
  }
}

function setRunning(controller) {
  running = controller;
  byId("send").hidden = controller !== null;
  byId("stop").hidden = controller === null;
}

async function send(text) {
  const mine = messages;
  mine.push({ role: "user", content: text });
  addMessage("user", text);
  const reply = new Reply(), controller = new AbortController();
  let fault = null;
  setRunning(controller);
  try {
    const answer = await request("v1/chat/completions", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(bodyOf()), signal: controller.signal,
    });
    if (answer.ok) await readEvents(answer.body, data => reply.take(data));
    else fault = await faultOf(answer);
    if (answer.ok && !reply.reason) fault = "The stream broke off.";
  } catch (e) {
    if (controller.signal.aborted) reply.reason = "you";
    else fault = e instanceof TypeError ? "The server does not answer." : e.message;
  }
  reply.end(fault);
  /* A conversation alternates: without a reply, the question goes as well. */
  if (reply.text) mine.push({ role: "assistant", content: reply.text });
  else mine.pop();
  if (running === controller) setRunning(null);
}

byId("composer").addEventListener("submit", event => {
  event.preventDefault();
  const text = byId("input").value;
  if (running || !text.trim()) return;
  byId("input").value = "";
  send(text);
});
byId("input").addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
byId("stop").addEventListener("click", () => running && running.abort());
byId("clear").addEventListener("click", () => {
  if (running) running.abort();
  messages = [];
  byId("messages").replaceChildren();
  byId("input").focus();
});
byId("key").value = sessionStorage.getItem("octavo-key") || "";
byId("key").addEventListener("change", () => sessionStorage.setItem("octavo-key", byId("key").value));
