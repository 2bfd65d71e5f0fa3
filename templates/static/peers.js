// The peers: whether each answers. The same as app/page/peers.py.

import { copies, patchList, setHidden } from "./dom.js";
import { duration } from "./format.js";
import { subscribe } from "./store.js";

const STATES = { closed: ["answers", "ok"], half_open: ["is tried", "warn"], open: ["does not answer", "bad"] };

export function startPeers() {
  const section = document.getElementById("peers"), list = document.getElementById("peer-rows");
  const make = copies("peer-template");
  subscribe("status", (status) => {
    const views = peersView(status);
    patchList(list, views, make);
    setHidden(section, views.length === 0);
  });
}

export function peersView(status) {
  return status.peers.map((peer) => {
    const hasProblem = peer.breaker === "closed" && peer.problem !== "";
    const [state, style] = hasProblem ? ["has a problem", "warn"] : STATES[peer.breaker];
    return {
      ...{ key: peer.name, peer: peer.name, state, state_class: style },
      facts: factsOf(peer).filter(Boolean).join(" · "),
      ...{ problem: peer.problem, problem_class: style },
    };
  });
}

function factsOf({ models, requests, retry_in_seconds: seconds }) {
  return [
    models === null ? "its models are not known yet" : `${models} model${models === 1 ? "" : "s"}`,
    requests ? `${requests} request${requests === 1 ? "" : "s"}` : "",
    seconds ? `tried in ${duration(seconds)}` : "",
  ];
}
