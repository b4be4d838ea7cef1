/* Puts the service's own address into the commands. */
"use strict";
for (const command of document.querySelectorAll(".curl")) {
  command.textContent = command.textContent.replace("HOST", location.origin);
}
