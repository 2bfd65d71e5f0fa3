// The first line: the state of the service and of this page's connection to it.

import { setHidden, setText } from "./dom.js";
import { subscribe } from "./store.js";

const CONNECTION = {
  connecting: "",
  live: "",
  polling: "updated every 5 s",
  disconnected: "disconnected, retrying",
};

export function startHeader() {
  const element = document.getElementById("live-state");
  subscribe("connection", (connection) => {
    setText(element, CONNECTION[connection]);
    setHidden(element, CONNECTION[connection] === "");
    document.documentElement.dataset.connection = connection;
  });
}
