"use strict";
// Keys and clips. Every page works without this file; it reads nothing but the page and asks for frames of its clips.

const MIN_FRAME_MS = 20;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// The frames of the clip that an element is about: when each is due, where it lies, how long it is to be seen.
function framesOf({ dataset }) {
  const times = dataset.times.split(" ").map(Number);
  const first = Number(dataset.first);
  return {
    times,
    address: (frame) => `/media/${dataset.row}/${first + frame}`,
    // One frame holds until the next one's time; the last one until the clip ends.
    heldMs(frame) {
      const until = frame + 1 < times.length ? times[frame + 1] : Number(dataset.duration);
      return Math.max(MIN_FRAME_MS, (until - times[frame]) * 1000);
    },
  };
}

function player(figure) {
  const { times, address, heldMs } = framesOf(figure);
  const screen = figure.querySelector(".screen");
  const button = figure.querySelector(".play");
  const slider = figure.querySelector("input");
  const clock = figure.querySelector("output");
  const name = screen.alt.replace(/^Frame \d+/, "");
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
  function wait() {
    const frame = Number(slider.value);
    timer = setTimeout(() => {
      if (frame + 1 >= times.length) return stop();
      show(frame + 1);
      wait();
    }, heldMs(frame));
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

// The clip of a card plays over and over under the pointer, unless motion is unwelcome, or when its key asks for it.
function preview(image) {
  const { times, address, heldMs } = framesOf(image);
  const card = image.closest(".card");
  let timer = 0;

  function show(frame) {
    image.src = address(frame);
    new Image().src = address((frame + 1) % times.length); // there when it is due
    timer = setTimeout(() => show((frame + 1) % times.length), heldMs(frame));
  }
  function play() {
    if (timer || times.length < 2) return;
    image.classList.add("playing");
    show(0);
  }
  function stop() {
    if (!timer) return;
    clearTimeout(timer);
    timer = 0;
    image.classList.remove("playing");
    image.src = address(0);
  }
  card.addEventListener("pointerenter", () => calm.matches || play());
  card.addEventListener("pointerleave", stop);
  card.addEventListener("focusout", stop);
  return { card, toggle: () => (timer ? stop() : play()) };
}

const clips = [...document.querySelectorAll("figure.clip")].map(player);
const previews = [...document.querySelectorAll(".card .preview")].map(preview);
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

function chosenPreviews() {
  return previews.filter(({ card }) => card.contains(document.activeElement));
}

function toggleClip() {
  const shown = chosenPreviews();
  if (shown.length) return shown.forEach((one) => one.toggle());
  if (clips.length) clips[0].toggle();
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
  " ": toggleClip,
  ",": () => clips.length && clips[0].step(-1),
  ".": () => clips.length && clips[0].step(1),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=range]), select, textarea, dialog");
  if (event.key === "Escape" && typing && !keys.open) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(actions, event.key)) return;
  const plays = chosenPreviews().length || (clips.length && !event.target.closest("button, summary, a"));
  if (event.key === " " && !plays) return;
  event.preventDefault();
  actions[event.key]();
});

const help = document.getElementById("show-keys");
help.hidden = false;
help.addEventListener("click", () => keys.showModal());
