"use strict";
// Keys and clips. Every page works without this file; it reads nothing but the page and asks for frames of its clips.

const MIN_FRAME_MS = 20;

function player(figure) {
  const times = figure.dataset.times.split(" ").map(Number);
  const first = Number(figure.dataset.first);
  const duration = Number(figure.dataset.duration);
  const screen = figure.querySelector(".screen");
  const button = figure.querySelector(".play");
  const slider = figure.querySelector("input");
  const clock = figure.querySelector("output");
  const name = screen.alt.replace(/^Frame \d+/, "");
  const address = (frame) => `/media/${figure.dataset.row}/${first + frame}`;
  let timer = 0;

  function show(frame) {
    slider.value = frame;
    slider.setAttribute("aria-valuetext", `frame ${frame + 1} of ${times.length}`);
    screen.src = address(frame);
    screen.alt = `Frame ${frame + 1}${name}`;
    clock.textContent = `${times[frame].toFixed(2)} s`;
    if (frame + 1 < times.length) new Image().src = address(frame + 1); // there when it is due
  }
  function stop() {
    clearTimeout(timer);
    timer = 0;
    button.textContent = "▶";
    button.setAttribute("aria-label", "Play the clip");
  }
  // One frame holds until the next one's time; the last one until the clip ends.
  function wait() {
    const frame = Number(slider.value);
    const until = frame + 1 < times.length ? times[frame + 1] : duration;
    timer = setTimeout(() => {
      if (frame + 1 >= times.length) return stop();
      show(frame + 1);
      wait();
    }, Math.max(MIN_FRAME_MS, (until - times[frame]) * 1000));
  }
  function toggle() {
    if (timer) return stop();
    if (Number(slider.value) + 1 >= times.length) show(0);
    button.textContent = "❚❚";
    button.setAttribute("aria-label", "Stop the clip");
    wait();
  }
  function step(by) {
    stop();
    show(Math.min(times.length - 1, Math.max(0, Number(slider.value) + by)));
  }
  button.addEventListener("click", toggle);
  slider.addEventListener("input", () => step(0));
  figure.querySelector(".player").hidden = false;
  show(0);
  return { toggle, step };
}

const clips = [...document.querySelectorAll("figure.clip")].map(player);
const cards = [...document.querySelectorAll(".card h2 a")];
let chosen = -1;

function choose(place) {
  if (!cards.length) return;
  if (chosen >= 0) cards[chosen].closest(".card").classList.remove("chosen");
  chosen = Math.min(cards.length - 1, Math.max(0, place));
  cards[chosen].closest(".card").classList.add("chosen");
  cards[chosen].focus({ preventScroll: true });
  cards[chosen].closest(".card").scrollIntoView({ block: "center" });
}

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
}

function move(by) {
  if (cards.length) return choose(chosen + by);
  follow(by > 0 ? "a[rel=next]" : "a[rel=prev]");
}

const keys = document.getElementById("keys");
const actions = {
  "j": () => move(1),
  "k": () => move(-1),
  "n": () => follow("a[rel=next]"),
  "b": () => follow("a[rel=prev]"),
  "u": () => follow("a[rel=up]"),
  "p": () => follow("#hide-prompt, #show-prompt"),
  "/": () => document.getElementById("text").focus(),
  "g": () => document.getElementById("jump").focus(),
  "?": () => keys.showModal(),
  " ": () => clips.length && clips[0].toggle(),
  ",": () => clips.length && clips[0].step(-1),
  ".": () => clips.length && clips[0].step(1),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=range]), select, textarea, dialog");
  if (event.key === "Escape" && typing && !keys.open) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(actions, event.key)) return;
  if (event.key === " " && (!clips.length || event.target.closest("button, summary, a"))) return;
  event.preventDefault();
  actions[event.key]();
});

const help = document.getElementById("show-keys");
help.hidden = false;
help.addEventListener("click", () => keys.showModal());
