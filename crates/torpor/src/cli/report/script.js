"use strict";
(() => {
  const filter = document.getElementById("filter");
  const matches = document.getElementById("matches");
  const items = Array.from(document.querySelectorAll(".item"));
  const texts = items.map((item) => item.textContent.toLowerCase());

  // Hides what does not have all the words. A process stays where one below it matches.
  function apply() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, place) => {
      const fits = words.every((word) => texts[place].includes(word));
      item.classList.toggle("hidden", !fits);
      if (fits) shown += 1;
    });
    if (words.length) {
      document.querySelectorAll("details").forEach((details) => {
        if (details.querySelector(".item:not(.hidden)")) details.open = true;
      });
    }
    matches.textContent = words.length ? `${shown} of ${items.length}` : "";
  }
  filter.addEventListener("input", apply);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== filter) {
      event.preventDefault();
      filter.focus();
    } else if (event.key === "Escape" && document.activeElement === filter) {
      filter.value = "";
      apply();
    }
  });

  // Arrows go through what can be reached in a group; only one of it is reached by Tab.
  function rove(group, members, move) {
    members.forEach((member, place) => member.setAttribute("tabindex", place === 0 ? "0" : "-1"));
    group.addEventListener("keydown", (event) => {
      const reachable = members.filter((member) => member.getClientRects().length > 0);
      const at = reachable.indexOf(document.activeElement);
      if (at < 0) return;
      const to = move(event.key, at, reachable.length, document.activeElement);
      if (to === null) return;
      event.preventDefault();
      const next = reachable[to];
      if (!next) return;
      members.forEach((member) => member.setAttribute("tabindex", member === next ? "0" : "-1"));
      next.focus();
    });
  }

  document.querySelectorAll(".tree").forEach((tree) => {
    const members = Array.from(tree.querySelectorAll("summary, .leaf"));
    rove(tree, members, (key, at, count, active) => {
      const details = active.tagName === "SUMMARY" ? active.parentElement : null;
      if (key === "ArrowDown") return Math.min(at + 1, count - 1);
      if (key === "ArrowUp") return Math.max(at - 1, 0);
      if (key === "Home") return 0;
      if (key === "End") return count - 1;
      if (key === "ArrowRight" && details) { details.open = true; return at; }
      if (key === "ArrowLeft" && details) { details.open = false; return at; }
      return null;
    });
  });

  document.querySelectorAll(".map").forEach((map) => {
    const detail = map.querySelector(".detail");
    map.querySelectorAll(".strip").forEach((strip) => {
      const members = Array.from(strip.querySelectorAll("g"));
      rove(strip, members, (key, at, count) => {
        if (key === "ArrowRight" || key === "ArrowDown") return Math.min(at + 1, count - 1);
        if (key === "ArrowLeft" || key === "ArrowUp") return Math.max(at - 1, 0);
        if (key === "Home") return 0;
        if (key === "End") return count - 1;
        return null;
      });
      const show = (event) => {
        const member = event.target.closest("g");
        if (member) detail.textContent = member.getAttribute("aria-label");
      };
      strip.addEventListener("mouseover", show);
      strip.addEventListener("focusin", show);
    });
    const zoom = map.querySelector("input");
    zoom.addEventListener("input", () => {
      map.className = `map zoom-${1 << Number(zoom.value)}`;
    });
  });
})();
